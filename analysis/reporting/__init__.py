"""The HTML report: parts that read what a run left, and the page that joins them. From outside:
`write_report`."""
