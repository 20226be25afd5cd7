"""The page that runs a model file in the browser. Served by `distillery serve`, or by any server of static files."""
