"""Where records are sent: one file a kind of place, chosen by the URL's scheme."""
