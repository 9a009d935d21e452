"""A plan's step beside what one could do instead (`d2ft simulate`)."""
