"""Ground floor: what the rest stands on. Imports nothing else of ultravid."""
