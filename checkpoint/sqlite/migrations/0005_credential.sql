-- The fingerprint of the credential that a begun request carries; NULL: it does not matter, or it is not known.
ALTER TABLE begins ADD COLUMN credential TEXT;
