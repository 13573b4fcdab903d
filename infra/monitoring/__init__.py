"""What an operator sees: alert rules, dashboards and Prometheus' configuration, as tables that files are made of.

1. `alerts` says when somebody is called, `dashboards` what is drawn.
2. `generate` writes them to infra/deploy/prometheus and infra/deploy/grafana; a test keeps the files current.
3. `scrape` is the configuration of the one-machine stack's Prometheus.
"""
