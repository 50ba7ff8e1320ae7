"""`qflare doctor`: one page about a device, with a remedy for whatever isn't right."""
