"""Plans on several ways, predicted and measured on a testbed of unequal hosts."""
