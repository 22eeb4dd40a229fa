"""See the labels of a release, check a sample of them, and correct them: pages, samples, estimates, corrections."""
