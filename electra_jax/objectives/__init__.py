"""What is learned: masking, sampling, losses; one file an objective."""
