"""The demo: scripts that make its pool and its model, and show what was chosen. ../demo.sh runs them."""
