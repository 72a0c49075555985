"""What a user would pick instead of early exits, tuned on the dev part; a module a family."""
