"""The house: who may import whom, what a wheel carries, what the pytest process never loads."""
