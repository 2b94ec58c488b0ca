"""What is right: oracle, reference file, judge, envelope, faults."""
