"""What good data is: how the tenants' tables are measured, the suites that judge the numbers, and what follows from a verdict."""
