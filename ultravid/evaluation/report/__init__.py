"""The HTML report of one run or several: `page.report_page` puts it together, one file draws each group of sections."""
