"""Methods trained side by side over seeds (`d2ft study`)."""
