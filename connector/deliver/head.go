package deliver

import (
	"bufio"
	"bytes"
	"net/http"
	"net/textproto"
	"strings"
)

// readHead reads the head of an answer that is as plain as nearly all are, in a quarter of net/http's time, and says how long
// the body after it is. ok is false for anything else: then nothing was read, and net/http is to say what the answer is.
//
// Plain is a head that has come whole, of HTTP/1.1, with a final status that allows a body, a Content-Length, each header
// once, on one line, in visible ASCII, and none that says how the connection or the body is to be treated otherwise (RFC 9112,
// 4 to 6, and RFC 9110, 5.5). The body is not longer than AnswerBytesMax.
func readHead(r *bufio.Reader, method string) (ans *wireAnswer, size int, ok bool) {
	if method == http.MethodHead || method == http.MethodConnect {
		return nil, 0, false
	}
	if _, err := r.Peek(1); err != nil {
		return nil, 0, false // net/http meets the same error
	}
	buffered, _ := r.Peek(r.Buffered())
	end := bytes.Index(buffered, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, 0, false
	}
	head := string(buffered[:end+2]) // the headers' values are pieces of it
	line, rest, _ := strings.Cut(head, "\r\n")
	status, ok := plainStatus(line)
	if !ok {
		return nil, 0, false
	}
	n := strings.Count(rest, "\r\n")
	values := make([]string, n)
	header := make(http.Header, n)
	size = -1
	for i := range values {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, found := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !found || !isPlainName(name) || !isPlainValue(value) {
			return nil, 0, false
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if header[name] != nil {
			return nil, 0, false
		}
		switch name {
		case "Connection", "Transfer-Encoding", "Trailer", "Pragma":
			return nil, 0, false
		case "Content-Length":
			if size, ok = plainSize(value); !ok {
				return nil, 0, false
			}
		}
		values[i] = value
		header[name] = values[i : i+1 : i+1]
	}
	if size < 0 || size > AnswerBytesMax {
		return nil, 0, false
	}
	_, _ = r.Discard(end + 4) // they are in the buffer
	return &wireAnswer{status: status, header: header}, size, true
}

// plainStatus reads a status line.
func plainStatus(line string) (status int, ok bool) {
	digits, ok := strings.CutPrefix(line, "HTTP/1.1 ")
	if !ok || len(digits) < 3 || len(digits) > 3 && digits[3] != ' ' || !isPlainValue(digits) {
		return 0, false
	}
	status, ok = plainSize(digits[:3])
	return status, ok && status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// plainSize reads a number of up to 7 digits: more than AnswerBytesMax, less than an overflow.
func plainSize(s string) (n int, ok bool) {
	if len(s) == 0 || len(s) > 7 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = 10*n + int(s[i]-'0')
	}
	return n, true
}

// isPlainName reports whether a header's name is of letters, digits, hyphens and underscores.
func isPlainName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isPlain(c) || c == '.' || c == '~' {
			return false
		}
	}
	return s != ""
}

// isPlainValue reports whether a text is of visible ASCII, spaces and tabs.
func isPlainValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c >= 0x7f {
			return false
		}
	}
	return true
}
