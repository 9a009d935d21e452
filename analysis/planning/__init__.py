"""From a request of the command line to a plan, and what is said of it (`d2ft plan`, `d2ft
diff`)."""
