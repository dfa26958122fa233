"""Work behind the requests: the queue of the engines, cached embeddings, jobs and events."""
