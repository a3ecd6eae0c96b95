"""A small real inference service: loads a tenant's FAISS index and users, recommends, and warms Redis."""
