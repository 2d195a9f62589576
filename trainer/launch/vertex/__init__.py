"""Jobs on Vertex AI: their requests, their packages, and watching them."""
