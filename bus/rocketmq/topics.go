package rocketmq

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
)

const (
	routePoll = 50 * time.Millisecond
	masterID  = "0"

	permReadWrite = 6
)

// groupName is what brokers know a group as: an installation that shares them with others has
// a topic of its own, and so groups of its own.
func groupName(topic, group string) string { return topic + "-" + group }

func retryTopic(group string) string { return "%RETRY%" + group }
func deadTopic(group string) string  { return "%DLQ%" + group }

// route is where a topic lies.
type route struct {
	Queues []struct {
		Broker string `json:"brokerName"`
		Read   int    `json:"readQueueNums"`
		Write  int    `json:"writeQueueNums"`
		Perm   int    `json:"perm"`
	} `json:"queueDatas"`
	Brokers []struct {
		Name  string            `json:"brokerName"`
		Addrs map[string]string `json:"brokerAddrs"`
	} `json:"brokerDatas"`
}

// queues returns the queues that can be written and read, in the same order everywhere.
func (r *route) queues(topic string) []primitive.MessageQueue {
	var mqs []primitive.MessageQueue
	for _, d := range r.Queues {
		if d.Perm&permReadWrite != permReadWrite {
			continue
		}
		for i := range min(d.Read, d.Write) {
			mqs = append(mqs, primitive.MessageQueue{Topic: topic, BrokerName: d.Broker, QueueId: i})
		}
	}
	slices.SortFunc(mqs, func(a, b primitive.MessageQueue) int {
		return cmp.Or(cmp.Compare(a.QueueId, b.QueueId), strings.Compare(a.BrokerName, b.BrokerName))
	})
	return mqs
}

// master returns the address of a broker's master, empty if it has none.
func (r *route) master(broker string) string {
	for _, b := range r.Brokers {
		if b.Name == broker {
			return b.Addrs[masterID]
		}
	}
	return ""
}

// route returns where topic lies; an error that answered(err, ansTopicNotExist) if it doesn't.
func (r *remote) route(ctx context.Context, topic string) (*route, error) {
	body, err := r.ask(ctx, reqRoute, map[string]string{"topic": topic, "acceptStandardJsonOnly": "true"})
	if err != nil {
		return nil, err
	}
	rt := new(route)
	if err := json.Unmarshal(strict(body), rt); err != nil {
		return nil, fmt.Errorf("rocketmq: route of %s: %w", topic, err)
	}
	return rt, nil
}

// masters returns the addresses of the masters of all brokers that the name servers know.
func (r *remote) masters(ctx context.Context) ([]string, error) {
	body, err := r.ask(ctx, reqCluster, nil)
	if err != nil {
		return nil, err
	}
	var cluster struct {
		Brokers map[string]struct {
			Addrs map[string]string `json:"brokerAddrs"`
		} `json:"brokerAddrTable"`
	}
	if err := json.Unmarshal(strict(body), &cluster); err != nil {
		return nil, fmt.Errorf("rocketmq: brokers of the cluster: %w", err)
	}
	var addrs []string
	for _, b := range cluster.Brokers {
		if a := b.Addrs[masterID]; a != "" {
			addrs = append(addrs, a)
		}
	}
	slices.Sort(addrs)
	return addrs, nil
}

// ensureTopic creates topic on all brokers if nobody has it, and waits until the name
// servers know: a send before that fails. An existing topic stays as it is.
func (r *remote) ensureTopic(ctx context.Context, topic string, queues int) (*route, error) {
	created := false
	for {
		rt, err := r.route(ctx, topic)
		switch {
		case err == nil && len(rt.queues(topic)) > 0:
			return rt, nil
		case err != nil && !answered(err, ansTopicNotExist):
			return nil, err
		case !created:
			addrs, err := r.masters(ctx)
			if err != nil {
				return nil, err
			}
			for _, addr := range addrs {
				n := strconv.Itoa(queues)
				if _, _, err := r.call(ctx, addr, reqCreateTopic, map[string]string{
					"topic": topic, "defaultTopic": "TBW102", "readQueueNums": n, "writeQueueNums": n,
					"perm": strconv.Itoa(permReadWrite), "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
				}, nil); err != nil {
					return nil, err
				}
			}
			created = len(addrs) > 0 // without brokers: until there are some
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait until the name servers know it: %w", ctx.Err())
		case <-time.After(routePoll):
		}
	}
}

func queueFields(group string, mq primitive.MessageQueue) map[string]string {
	f := map[string]string{"topic": mq.Topic, "queueId": strconv.Itoa(mq.QueueId), "brokerName": mq.BrokerName, "bname": mq.BrokerName}
	if group != "" {
		f["consumerGroup"] = group
	}
	return f
}

// offset asks for one of a queue's offsets: reqMinOffset, reqMaxOffset, or a group's position.
func (r *remote) offset(ctx context.Context, addr string, code int, fields map[string]string) (int64, error) {
	ext, _, err := r.call(ctx, addr, code, fields, nil)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(ext["offset"], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("rocketmq: offset in an answer: %w", err)
	}
	return n, nil
}

// position returns the stored position of group in mq; false: it has none.
func (r *remote) position(ctx context.Context, addr, group string, mq primitive.MessageQueue) (int64, bool, error) {
	f := queueFields(group, mq)
	f["setZeroIfNotFound"] = "false" // a broker would say 0 for a group that it doesn't know
	n, err := r.offset(ctx, addr, reqGroupOffset, f)
	if answered(err, ansQueryNotFound) {
		return 0, false, nil
	}
	return n, err == nil, err
}

func (r *remote) setPosition(ctx context.Context, addr, group string, mq primitive.MessageQueue, offset int64) error {
	f := queueFields(group, mq)
	f["commitOffset"] = strconv.FormatInt(offset, 10)
	_, _, err := r.call(ctx, addr, reqSetGroupOffset, f, nil)
	if !answered(err, ansGroupNotExist) {
		return err
	}
	if err := r.createGroup(ctx, addr, group); err != nil {
		return err
	}
	_, _, err = r.call(ctx, addr, reqSetGroupOffset, f, nil)
	return err
}

// createGroup tells a broker of a group that it doesn't know.
func (r *remote) createGroup(ctx context.Context, addr, group string) error {
	body, err := json.Marshal(map[string]any{
		"groupName": group, "consumeEnable": true, "consumeFromMinEnable": true, "consumeBroadcastEnable": false,
		"retryQueueNums": 1, "retryMaxTimes": 16, "brokerId": 0, "whichBrokerWhenConsumeSlowly": 1, "notifyConsumerIdsChangedEnable": true,
	})
	if err != nil {
		return err
	}
	_, _, err = r.call(ctx, addr, reqCreateGroup, nil, body)
	return err
}

// joinGroup sees to it that a group has what it needs: its retry topic, without which the
// first retry takes half a minute, its dead letters, and a position in every queue. Where it
// has none it starts from now: by itself a broker would begin with what it still has.
func (r *remote) joinGroup(ctx context.Context, group, topic string) error {
	for _, t := range []string{retryTopic(group), deadTopic(group)} {
		if _, err := r.ensureTopic(ctx, t, 1); err != nil {
			return fmt.Errorf("topic %s: %w", t, err)
		}
	}
	rt, err := r.route(ctx, topic)
	if err != nil {
		return err
	}
	for _, mq := range rt.queues(topic) {
		addr := rt.master(mq.BrokerName)
		if addr == "" {
			continue
		}
		_, known, err := r.position(ctx, addr, group, mq)
		if err != nil {
			return err
		}
		if known {
			continue
		}
		end, err := r.offset(ctx, addr, reqMaxOffset, queueFields("", mq))
		if err != nil {
			return err
		}
		if err := r.setPosition(ctx, addr, group, mq, end); err != nil {
			return err
		}
	}
	return nil
}
