"""A model behind HTTP, as OpenAI's clients know it. Needs the extra `serve`: starlette, and a server for it."""
