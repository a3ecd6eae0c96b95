"""A small real ML Engine: learns embeddings from a tenant's interactions, builds indices, and calls back on Kafka."""
