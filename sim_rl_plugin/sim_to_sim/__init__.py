"""A policy in another simulator than it was trained in: where layouts meet, and how far apart the two are."""
