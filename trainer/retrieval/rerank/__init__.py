"""What is done to embeddings and neighbours after the model: plain functions on arrays."""
