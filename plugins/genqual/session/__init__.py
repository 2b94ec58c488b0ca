"""One pytest session: options, profiles, selection, waivers, records and display. No torch."""
