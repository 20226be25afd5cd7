"""A model file over HTTP, and the page that runs it in the browser."""
