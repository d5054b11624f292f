"""The pages, one module each: routes, and the values that their templates show."""
