"""Making, checking and certifying models. Nothing in serving imports this package."""
