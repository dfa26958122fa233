"""Rules and answers that concern HTTP alone: who may call, errors, metrics."""
