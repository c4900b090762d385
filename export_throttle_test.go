package raidstorage

// JoinLag is joinLag.
const JoinLag = joinLag

// Controller is catchUp, with commits known by numbers.
type Controller struct {
	c   catchUp
	all map[int]*admission
}

// NewController returns one without recoveries.
func NewController(ratio float64) *Controller {
	return &Controller{c: catchUp{ratio: ratio}, all: map[int]*admission{}}
}

func (c *Controller) numbers(open []*admission) (numbers []int) {
	for _, a := range open {
		for n, b := range c.all {
			if a == b {
				numbers = append(numbers, n)
			}
		}
	}
	return numbers
}

// Copies is catchUp.copies; the events return the numbers of those who may go on.
func (c *Controller) Copies(name string, left int64) []int { return c.numbers(c.c.copies(name, left)) }

// Copied is catchUp.copied.
func (c *Controller) Copied(name string, bytes int64) []int {
	return c.numbers(c.c.copied(name, bytes))
}

// Stops is catchUp.stops.
func (c *Controller) Stops(name string) []int { return c.numbers(c.c.stops(name)) }

// Asks is catchUp.asks.
func (c *Controller) Asks(n int, bytes int64) []int {
	c.all[n] = &admission{bytes: bytes}
	return c.numbers(c.c.asks(c.all[n]))
}

// Expires is catchUp.expires.
func (c *Controller) Expires(n int) bool { return c.c.expires(c.all[n]) }

// Withdraws is catchUp.withdraws.
func (c *Controller) Withdraws(n int) []int { return c.numbers(c.c.withdraws(c.all[n])) }

// Grows is catchUp.grows.
func (c *Controller) Grows(n int, bytes int64) { c.c.grows(c.all[n], bytes) }

// Commits is catchUp.commits.
func (c *Controller) Commits(n int) { c.c.commits(c.all[n]) }

// Slowest is catchUp.slowest.
func (c *Controller) Slowest() string { return c.c.slowest() }
