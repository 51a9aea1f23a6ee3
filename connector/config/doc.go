// Package config reads Weir's one YAML file (design section 13).
//
// The file is strict: an unknown key, a wrong type or a value out of range is a [Problem] with file, line,
// column and YAML path, what is wrong and what to do. [Load] reports all problems of a file at once, in the
// order of the file. The field tags of [Config] are the one source of the names, bounds, defaults and
// descriptions: the reader, [Config.Validate] and the published JSON Schema ([JSONSchema]) all follow them.
//
// Secrets are references, never values: ${env:NAME} or ${file:/path}. A [Secret] is resolved when it is used
// and never prints its value, so a file that is replaced heals by itself and no log, error or page shows it
// (promise 9). A secret that is written into the file itself is refused without being repeated.
//
// Relative paths in the file are relative to the folder of the file.
package config
