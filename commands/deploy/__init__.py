"""Prodrome on many machines: the Kubernetes manifests of infra/deploy, made from tables (`workloads`)."""
