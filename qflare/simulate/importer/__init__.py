"""`qflare data import`: recordings of sensors in CSV files become one file of windows a device."""
