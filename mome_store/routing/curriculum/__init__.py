"""What the router is trained on: invented questions about invented things, and the recipe that makes them."""
