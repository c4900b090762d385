// Package raidstorage is RAID-1 for object databases.
package raidstorage
