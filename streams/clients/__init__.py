"""The neighbours as the domain speaks of them: a Protocol each, HTTP and S3 stay inside."""
