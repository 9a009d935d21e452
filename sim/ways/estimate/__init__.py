"""What steps of any replicas take under any load, in closed form: the search compares these."""
