"""What training did: reports and diagnoses of runs, of this project and of others."""
