"""Site profiles and job-script templates, shipped as package data."""
