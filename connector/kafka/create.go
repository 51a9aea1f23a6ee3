package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// CreateTopic makes a topic with the cluster's default replication and settings, for events to be published to.
// One that exists already is left as it is, and created is false.
func (a *Admin) CreateTopic(ctx context.Context, name string, partitions int32) (created bool, err error) {
	if err := checkTopicName(name); err != nil {
		return false, fmt.Errorf("create topic: %w", err)
	}
	ctx, cancel := a.timeout(ctx)
	defer cancel()
	_, err = a.adm.CreateTopic(ctx, partitions, -1, nil, name)
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("create topic %s: %w", name, err)
	}
	return true, nil
}
