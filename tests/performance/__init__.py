"""What is fast enough: metrics, roofline, verdict, baseline file, and their display."""
