// Package deliver sends one built request to a vendor and says how far it got.
//
// The model. A [Sender] makes one HTTP exchange per call and never repeats one by itself: whether a request may
// be repeated depends on its class and on how far it got ([checkpoint.Sent]), and that is decided above. A
// [Gate] stands before each operation: its breaker pauses an operation that has stopped succeeding (promise 7),
// its quotas keep it under the vendor's limits (promise 5). A [Credential] goes with each request: a key, a
// signature, a token that is renewed before its end, a client certificate.
//
// What is trusted: the profile. Vendor answers are not: bodies are bounded, redirects are not followed, waits
// that the vendor asks for are clamped.
package deliver
