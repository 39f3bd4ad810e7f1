"""What both services need: names, errors, adapter specifications, terms, framing, TLS. Imports neither service."""
