"""What devices do: functions written once, for every UDC."""
