"""Running TLC over `spec/`: configurations, planted bugs, and recorded traces held against the specs."""
