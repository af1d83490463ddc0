"""Stand-ins that tests share: small environments, apps, models and servers."""
