package tikv

// gcPrefix is where in PD's etcd the safe point lies that this store's readers keep to.
const gcPrefix = "/gochat"
