"""A web shop after WebShop."""
