"""Letting devices in: tickets, the exchange, the operator's word, the broker's accounts.

`judge` decides (pure), `register` keeps it in the database, `office` speaks to devices, `service`
runs beside the rounds, `command` is for the operator.
"""
