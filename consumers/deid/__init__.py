"""De-identification, pure: bytes and a profile in, bytes and a manifest out."""
