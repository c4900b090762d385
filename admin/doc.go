// Package admin shows and controls the mirrors of a running process over HTTP.
//
//	GET  /            the status as a page for people
//	GET  /status      the status as JSON: Status
//	GET  /healthz     200 while the process serves
//	GET  /readyz      200 while every mirror takes commits, else 503 and why
//	GET  /metrics     the same numbers for Prometheus
//	POST /mirrors/NAME/recover, disable, promote, demote, pack, verify
//	POST /reload      put an edited configuration in force, or tell the difference
//
// The body of a POST is one JSON object, Request, and so is each line of the answer,
// Message: progress while it is made, then the end. A request that is refused before
// anything has begun gets a 4xx or 5xx status and a body of one Message.
//
// Recoveries, promotions and packs belong to the Server, not to the request: they go on if the
// client goes away, and end with Shutdown. A client that asks for one that is under way
// already is told of that one. Verifications end with their request.
//
// There is no log-in: whoever reaches the address may do everything. It is meant for the
// loopback interface, or for a proxy that asks who it is. Pages of other sites that a
// browser on the same machine shows cannot reach the control.
package admin
