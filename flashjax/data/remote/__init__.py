"""Folders and files at gs://, s3:// and the like: brought here, put there, and locked."""
