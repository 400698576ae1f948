"""The contenders, one module each with `run(job, material) -> Outcome`; a peer's runs in the peer's environment."""
